"""Scores of one image against another (PSNR, SSIM, LPIPS, `features`, errors), and the bootstrap over photographs. May
import core and backbones.
"""
