"""Views of one verdict: table, JSON, JUnit, Markdown, HTML, curves."""
