"""Leaderboards: submissions that anyone can check, and the site built from them."""
