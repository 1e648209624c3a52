"""Writes the files that the pages of docs/ learn from into the folder `examples`: `python docs/examples.py`.

    loans.csv, new_loans.csv    a table with numbers, text, missing values and a column of classes; rows without classes
    orders.csv                  a table with a column of 343 levels, most of them rare
    letters.csv, new_letters/   short texts with topics; a folder of .txt files
    counts.npz, topics.npy      their counts of words, a sparse matrix (500, 42), and their topics (500,)
    counts.svm, new_counts.svm  counts of words in the svmlight format, with the topics as the numbers 0 to 2
    embeddings.npz              scikit-learn's digits in the place of embeddings: features (1797, 64) and labels (1797,)
    pictures/                   300 of the digits as PNG files, a folder for each class
    sklearn_default.npz         coef and intercept of scikit-learn's LogisticRegression() of its breast cancer table

Everything is made from a seed, or comes with scikit-learn.
"""

from __future__ import annotations

import csv
import math
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

FOLDER = Path("examples")

COLUMNS = ("age", "income", "city", "repaid")


def write_examples(folder: Path = FOLDER) -> None:
    """Writes all files; those of an earlier call are overwritten."""
    folder.mkdir(exist_ok=True)
    rows = list(_loans(520))
    _write_csv(folder / "loans.csv", COLUMNS, rows[:500])
    _write_csv(folder / "new_loans.csv", COLUMNS[:-1], [row[:-1] for row in rows[500:]])
    _write_csv(folder / "orders.csv", ("price", "product", "returned"), list(_orders(1500)))
    letters = list(_letters(503))
    _write_csv(folder / "letters.csv", ("text", "topic"), letters[:500])
    (folder / "new_letters").mkdir(exist_ok=True)
    for number, (text, _) in enumerate(letters[500:]):
        (folder / "new_letters" / f"{number}.txt").write_text(text, encoding="utf-8")
    counts = CountVectorizer().fit_transform(text for text, _ in letters)
    topics, codes = np.unique([topic for _, topic in letters], return_inverse=True)
    sparse.save_npz(folder / "counts.npz", counts[:500])
    np.save(folder / "topics.npy", topics[codes[:500]])
    dump_svmlight_file(counts[:500], codes[:500], str(folder / "counts.svm"), zero_based=False)
    dump_svmlight_file(counts[500:], codes[500:], str(folder / "new_counts.svm"), zero_based=False)
    digits = load_digits()
    np.savez(folder / "embeddings.npz", features=digits.data.astype(np.float32), labels=digits.target)
    for number, (pixels, label) in enumerate(zip(digits.images[:300], digits.target[:300], strict=True)):
        place = folder / "pictures" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9375).astype(np.uint8)).save(place / f"{number:03}.png")  # 16 becomes 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its 100 iterations are too few, which `certify` shows
        model = LogisticRegression().fit(*load_breast_cancer(return_X_y=True))
    np.savez(folder / "sklearn_default.npz", coef=model.coef_, intercept=model.intercept_)


def _loans(count: int) -> Iterator[tuple[str, ...]]:
    """Rows from a seed: repaid more often with age and income, least often in Bern."""
    draw = random.Random(0)
    for _ in range(count):
        age, income = draw.randint(20, 70), round(draw.lognormvariate(8, 0.5), 2)
        city = draw.choice(["Basel", "Bern", "Geneva"])
        log_odds = (age - 40) / 10 + 2 * (math.log(income) - 8) - 1.5 * (city == "Bern")
        repaid = draw.random() < 1 / (1 + math.exp(-log_odds))
        yield str(age), "" if draw.random() < 0.05 else str(income), city, "yes" if repaid else "no"


def _orders(count: int) -> Iterator[tuple[str, ...]]:
    """Rows from a seed: products of 400, some of them often, are returned with a probability of their own."""
    draw = random.Random(0)
    log_odds = [draw.gauss(-0.5, 1.5) for _ in range(400)]
    for _ in range(count):
        product = int(400 * draw.random() ** 3)
        price = round(draw.lognormvariate(3, 0.6), 2)
        returned = draw.random() < 1 / (1 + math.exp(-log_odds[product] - 0.02 * (price - 20)))
        yield str(price), f"P{product:03}", "yes" if returned else "no"


TOPICS = {
    "law": "court attorney judge verdict jury appeal statute witness",
    "music": "piano melody concert violin rhythm chorus opera drum",
    "travel": "train ticket harbor luggage border hotel island flight",
}
"""Words of each topic."""

COMMON = "the letter says that we were late again and nobody knows why it took so long this time"


def _letters(count: int) -> Iterator[tuple[str, str]]:
    """Texts from a seed: common words, some words of the topic, and one of any topic."""
    draw = random.Random(0)
    every = " ".join(TOPICS.values()).split()
    for _ in range(count):
        topic = draw.choice(list(TOPICS))
        words = [
            *draw.choices(COMMON.split(), k=12),
            *draw.choices(TOPICS[topic].split(), k=draw.randint(0, 3)),
            draw.choice(every),
        ]
        draw.shuffle(words)
        yield f"{' '.join(words).capitalize()}.", topic


def _write_csv(path: Path, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    try:
        write_examples()
    except OSError as error:  # a folder that cannot be written to, a full disk
        sys.stderr.write(f"{FOLDER}/ must be a folder that can be written to: {error}. Go to another folder.\n")
        sys.exit(2)
