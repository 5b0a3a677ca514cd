"""Prices, stock and invoices for a small mail-order shop."""

from orderdesk.invoice import render
from orderdesk.orders import Line, Order
from orderdesk.stock import OutOfStock, Warehouse

__all__ = ["Line", "Order", "OutOfStock", "Warehouse", "render"]
