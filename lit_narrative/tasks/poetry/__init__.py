"""Verse: a small grammar of topics, poems from plain text, word lists, and measures of what was written."""
