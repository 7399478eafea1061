"""Whether data is fit to be used: gates and drift, as statistics over numbers; pure."""
