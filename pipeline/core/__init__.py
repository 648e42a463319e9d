"""What every other package stands on: errors, whole files, locks, progress, the registry idiom, params.yaml, the
names of sources and shapes, the machine a run happens on, and which code a stage runs. Imports no other package.
"""
