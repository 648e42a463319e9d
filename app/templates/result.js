// a click on a picture: as wide as its place, then pixel for pixel, then each pixel four times as wide
element.addEventListener('click', event => {
  const image = event.target.closest('.lens img');
  if (!image) return;
  const scale = (Number(image.dataset.scale || 0) + 1) % 3, factor = [0, 1, 4][scale];
  image.closest('.tiles').querySelectorAll('img').forEach(each => {
    each.dataset.scale = scale;
    each.style.width = factor ? `${each.naturalWidth * factor}px` : '';
    each.style.maxWidth = factor ? 'none' : '';
  });
});
element.addEventListener('scroll', event => {
  if (!event.target.matches || !event.target.matches('.lens')) return;
  event.target.closest('.tiles').querySelectorAll('.lens').forEach(each => {
    each.scrollLeft = event.target.scrollLeft; each.scrollTop = event.target.scrollTop;
  });
}, true);
