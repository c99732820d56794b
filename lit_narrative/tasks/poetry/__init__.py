"""Verse: a small grammar of topics, poems from plain text, bags of words, and measures of what was written."""
