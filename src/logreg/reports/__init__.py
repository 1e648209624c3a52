"""What users see of a run: the terminal, report.md, report.html, pictures, the model card."""
