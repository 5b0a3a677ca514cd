"""Muon and what it needs: which parameters are matrices, how they are made orthogonal, alone and over several ranks."""
