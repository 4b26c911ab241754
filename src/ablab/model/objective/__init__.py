"""The axis `objective`: what training minimises beside the task's own loss. Evaluation is by the main head alone.

`base` has the contract, the next token and the settings that every option has; `multi_token` looks further ahead.
`probe` tells what they do.
"""
