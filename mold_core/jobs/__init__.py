"""Jobs: requests on their way to results, where they wait and where they are kept, and the kinds there are."""
