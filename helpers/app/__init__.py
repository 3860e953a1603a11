"""What the notebooks need around a run: controls, plan, worker, report, web server."""
