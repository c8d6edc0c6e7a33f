"""What a run leaves behind: its record, tables, plots and the HTML report."""
