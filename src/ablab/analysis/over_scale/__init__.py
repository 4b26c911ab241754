"""Does a component still pay at ten times the compute? What a ladder of sizes says of it."""
