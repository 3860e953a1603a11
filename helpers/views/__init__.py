"""Figures and tables in one style, as Plotly figures and escaped HTML."""
