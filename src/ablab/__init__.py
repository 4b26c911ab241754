"""ablab: does this component help, by how much, at what cost, and how sure are we?"""

__version__ = "0.1.0"
