"""`python -m tests.model`: write docs/concepts/rules.md."""

from tests.model.report import PAGE, render

if __name__ == "__main__":
    PAGE.write_text(render())
    print(PAGE)
