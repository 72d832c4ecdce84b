"""What every result is shown with: tables, figures as text, plots, image grids."""
