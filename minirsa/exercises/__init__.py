"""Checkers for the book's exercises, one module a chapter: each judges a function and says what is wrong with it."""
