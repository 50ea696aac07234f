// Builds elements. Text only ever becomes a text node, so nothing that is shown can be markup.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "vars") for (const [key, of] of Object.entries(value)) element.style.setProperty(key, of);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

// Brings the children of `parent` in line with `items` and touches only what has changed.
export function reconcile(parent, items, { key, render }) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const focused = document.activeElement?.closest?.("[data-key]")?.dataset.key;
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    const state = JSON.stringify(item);
    const old = before.get(name);
    before.delete(name);
    let element = old;
    if (!old || old.renderedFrom !== state) {
      element = render(item);
      element.dataset.key = name;
      element.renderedFrom = state;
      if (old) {
        if (old === place) place = element;
        const inside = focused === name && old.contains(document.activeElement);
        const index = inside ? focusable(old).indexOf(document.activeElement) : -1;
        old.replaceWith(element);
        if (index >= 0) focusable(element)[index]?.focus({ preventScroll: true });
      }
    }
    if (element === place) place = element.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const gone of before.values()) {
    const place = gone.contains(document.activeElement) ? placeOf(document.activeElement) : null;
    const next = gone.nextElementSibling ?? gone.previousElementSibling;
    gone.remove();
    place?.focus(next);
  }
}

// Renders a part of the page only when what it shows has changed.
export function section(element, state, render) {
  const text = JSON.stringify(state);
  if (element.renderedFrom === text) return;
  element.renderedFrom = text;
  const inside = element.contains(document.activeElement) ? focusable(element).indexOf(document.activeElement) : -1;
  replace(element, render());
  if (inside >= 0) focusable(element)[inside]?.focus({ preventScroll: true });
}

// Where the focus is, so that it can go back there after parts of the page were drawn anew: to the
// element itself, to the one with the same words in the same row or section, or to the page's content.
export function placeOf(element) {
  const words = element.textContent;
  const section = element.closest("section");
  const key = element.closest("[data-key]")?.dataset.key;

  function standIn(row) {
    if (element.isConnected && !row) return element;
    const around = row ?? (key ? document.querySelector(`[data-key="${CSS.escape(key)}"]`) : section);
    return around && focusable(around).find((each) => each.textContent === words);
  }
  return { focus: (row) => (standIn(row) ?? document.getElementById("main")).focus({ preventScroll: true }) };
}

function focusable(element) {
  const inside = [...element.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")];
  return element.matches("a[href], button, [tabindex]") ? [element, ...inside] : inside;
}
