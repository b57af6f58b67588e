"""Public datasets: from the layout of the official download to a datalist, one module per dataset."""
