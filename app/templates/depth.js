// `element` and `trigger` come from Gradio: the component's element, and what sends its events to Python
const show = place => {
  element.querySelectorAll('.layers').forEach((layers, number) => {
    [...layers.children].forEach((tile, other) => tile.ariaPressed = other === place);
    const tile = layers.children[place], from = tile.querySelector('img');
    const figure = element.querySelector(`[data-series="${number}"]`), image = figure.querySelector('img');
    image.hidden = !from;
    if (from) [image.src, image.alt] = [from.src, from.alt];
    figure.querySelector('span').textContent = from ? tile.querySelector('small').textContent : 'no model of this layer';
  });
};
element.addEventListener('input', event => show(Number(event.target.value)));
element.addEventListener('change', event => {
  const place = Number(event.target.value);
  trigger('select', {index: place, value: element.querySelector('.layers').children[place].dataset.layer});
});
element.addEventListener('click', event => {
  const tile = event.target.closest('.layers button');
  if (!tile) return;
  const range = element.querySelector('input');
  range.value = [...tile.parentElement.children].indexOf(tile);
  range.dispatchEvent(new Event('input', {bubbles: true}));
  range.dispatchEvent(new Event('change', {bubbles: true}));
});
