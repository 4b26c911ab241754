"""From the words of a command to runs that can be built: composed, checked, at equal budgets, before anything is paid."""
