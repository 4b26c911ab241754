"""Components that are right and look odd: what a check may take for a mistake."""
