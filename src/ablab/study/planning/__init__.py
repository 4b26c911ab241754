"""From the words of a command to runs that can be built: composed, checked, brought to equal budgets."""
