"""Model files: which ones are known, where their bytes come from, and the store that holds them.

Knows file names, hashes and HTTP; must not know what is inside a model file, nor who will run it.
"""
