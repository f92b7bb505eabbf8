"""Whether a completion answers a question about an attribute, by RAVEL's rules."""

from __future__ import annotations

import re


def is_right(text: str, label: str, completion: str) -> bool:
    """Whether ``completion`` of the prompt ``text`` names ``label``; some labels have other names that count."""
    if not label:
        return False
    found = completion.split('"')[0].strip(' "').replace("\\/", "/").lower()
    if not found:
        return False
    wanted = label.lower()
    if any(word in text for word in ("coord", "latitude", "longitude")):
        return _within_two_degrees(wanted, found)
    if "United States" in label or "United Kingdom" in label:
        bare = completion.strip().replace("the ", "")
        return bare.startswith(label.strip().replace("the ", "")) or bare.startswith("England")
    if "South Korea" in label:
        return found.startswith(("korea", "south korea"))
    if "North America" in label:
        return wanted in found or found == "na" or found.startswith("america")
    if "Mandarin" in label:
        return found in wanted or found == "chinese"
    if "language" in text and "," in wanted:
        return any(language in found for language in wanted.split(","))
    return found.startswith(wanted) if len(wanted) < len(found) else wanted.startswith(found)


def _within_two_degrees(wanted: str, found: str) -> bool:
    numbers = re.findall(r"\d+", found)
    try:
        return bool(numbers) and abs(float(wanted.strip("-−")) - float(numbers[0])) <= 2
    except ValueError:
        return False
