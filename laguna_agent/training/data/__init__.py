"""Data as immutable versions: ingested, filtered, ranked, deduplicated, ordered, tokenised, packed, blended, traced."""
