"""What the chapters share: small modules without chapter logic.

Importing this package loads nothing heavy; each module imports torch, torchvision or matplotlib
only where a function needs it, or at its own top when nothing works without it.
"""
