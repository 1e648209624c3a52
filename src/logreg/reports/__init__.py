"""Reports of a run: terminal, report.md, report.html, summary.json, pictures, model card."""
