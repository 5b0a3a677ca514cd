"""Prices, stock, invoices and monthly figures for a small mail-order shop."""
