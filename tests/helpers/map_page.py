"""What tests do on a map before they look at it: open the examples, show why, open the folded settings."""

from playwright.sync_api import Page


def open_all(page: Page) -> None:
    """Open every example's card."""
    page.evaluate("document.querySelectorAll('.toggle[aria-expanded=false]').forEach((one) => one.click())")


def explain_all(page: Page) -> None:
    """Open every example, and show its ratios and tags."""
    open_all(page)
    page.evaluate("document.querySelectorAll('.why[aria-expanded=false]').forEach((one) => one.click())")


def unfold(page: Page) -> None:
    """Open every folded part of the side panel, whatever the width."""
    page.evaluate("document.querySelectorAll('#panel details').forEach((one) => { one.open = true; })")
