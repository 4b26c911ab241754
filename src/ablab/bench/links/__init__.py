"""The model of a step's time beside what is measured over throttled links between network namespaces."""
