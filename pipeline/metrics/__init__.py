"""What is measured between two images: PSNR, SSIM, LPIPS, errors, and the bootstrap over photographs. May import
core and backbones.
"""
