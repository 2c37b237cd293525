"""Writes the dashboards: ``python -m k8s.dashboards.builder``, which is ``make dashboards``."""

from __future__ import annotations

from k8s.dashboards.builder import FOLDER, files


def main() -> None:
    """Write every file that is not yet what it should be, and say which."""
    for path, text in files().items():
        target = FOLDER / path
        old = target.read_text("utf-8") if target.exists() else None
        if old != text:
            target.parent.mkdir(exist_ok=True)
            target.write_text(text, "utf-8")
        print(f"{target.relative_to(FOLDER.parent.parent)}: {'as it was' if old == text else 'written'}")  # noqa: T201 - a program that says what it did


if __name__ == "__main__":
    main()
