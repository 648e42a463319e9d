"""Scores of one image against another (PSNR, SSIM, LPIPS, errors), and the bootstrap over photographs. May import
core.
"""
