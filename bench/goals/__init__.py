"""The goals, a module each: `measure(run)` gives its rows."""
