"""What is made of whole experiments: comparison, reconstruction of any photograph, the first of two stages, plans,
weights on their way to another machine, and studies through DVC's queue. May import every other package.
"""
