// `element` and `trigger` come from Gradio: the component's element, and what sends its events to Python
const key = cell => cell.dataset.value === '' ? null
  : cell.classList.contains('number') ? Number(cell.dataset.value) : cell.dataset.value;
const compare = (a, b) => a === null ? 1 : b === null ? -1 : typeof a === 'number' ? a - b : a.localeCompare(b);
const sort = (head, down) => {
  const body = element.querySelector('tbody'), column = head.cellIndex;
  element.querySelectorAll('thead th').forEach(other => other.removeAttribute('aria-sort'));
  head.ariaSort = down ? 'descending' : 'ascending';
  const rows = [...body.rows].map(row => [key(row.cells[column]), row]);
  rows.sort(([a], [b]) => a === null || b === null || !down ? compare(a, b) : compare(b, a));
  body.append(...rows.map(([, row]) => row));
};
const turn = head => {  // the other way round, or by another column; and the address remembers it
  const down = head.ariaSort ? head.ariaSort === 'ascending' : head.classList.contains('number');
  const address = new URL(window.location);
  address.searchParams.set('sort', (down ? '-' : '') + head.textContent.trim());
  window.history.replaceState(null, '', address);
  sort(head, down);
};
const restore = () => {  // a table that has just come is sorted as the address says
  const table = element.querySelector('table:not([data-sorted])');
  if (!table) return;
  table.dataset.sorted = '';
  const wanted = new URL(window.location).searchParams.get('sort') ?? '', down = wanted.startsWith('-');
  const head = [...table.tHead.rows[0].cells].find(cell => cell.textContent.trim() === wanted.slice(down ? 1 : 0));
  if (head) sort(head, down);
};
new MutationObserver(restore).observe(element, {childList: true, subtree: true});
const choose = row => {
  for (const other of row.parentElement.rows) other.ariaSelected = other === row;
  trigger('select', {index: row.rowIndex - 1, value: row.dataset.name});
};
element.addEventListener('click', event => {
  const head = event.target.closest('thead th'), row = event.target.closest('tbody tr');
  if (head) turn(head); else if (row) choose(row);
});
element.addEventListener('keydown', event => {
  if (event.key === 'Enter' && event.target.matches('tbody tr')) choose(event.target);
});
