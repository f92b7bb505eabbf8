"""Leaderboards: submissions, checks, the site."""
