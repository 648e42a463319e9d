// `element` and `trigger` come from Gradio: the component's element, and what sends its events to Python
const key = cell => cell.dataset.value === '' ? null
  : cell.classList.contains('number') ? Number(cell.dataset.value) : cell.dataset.value;
const compare = (a, b) => a === null ? 1 : b === null ? -1 : typeof a === 'number' ? a - b : a.localeCompare(b);
const sort = head => {
  const body = element.querySelector('tbody'), column = head.cellIndex;
  const down = head.ariaSort ? head.ariaSort === 'ascending' : head.classList.contains('number');
  element.querySelectorAll('thead th').forEach(other => other.removeAttribute('aria-sort'));
  head.ariaSort = down ? 'descending' : 'ascending';
  const rows = [...body.rows].map(row => [key(row.cells[column]), row]);
  rows.sort(([a], [b]) => a === null || b === null || !down ? compare(a, b) : compare(b, a));
  body.append(...rows.map(([, row]) => row));
};
const choose = row => {
  for (const other of row.parentElement.rows) other.ariaSelected = other === row;
  trigger('select', {index: row.rowIndex - 1, value: row.dataset.name});
};
element.addEventListener('click', event => {
  const head = event.target.closest('thead th'), row = event.target.closest('tbody tr');
  if (head) sort(head); else if (row) choose(row);
});
element.addEventListener('keydown', event => {
  if (event.key === 'Enter' && event.target.matches('tbody tr')) choose(event.target);
});
