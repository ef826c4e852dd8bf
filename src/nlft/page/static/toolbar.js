// A group of buttons as one Tab stop: the arrow keys move inside it.

/** Make the buttons of a group one Tab stop. Buttons may come, go or be disabled later. */
export function rove(group, selector = "button, summary") {
  const usable = () => [...group.querySelectorAll(selector)].filter((one) => (
    !one.disabled && one.checkVisibility() && !one.closest(".sheet")));
  const settle = (current) => {
    for (const one of group.querySelectorAll(selector)) if (!one.closest(".sheet")) one.tabIndex = one === current ? 0 : -1;
  };
  const refresh = () => {
    const all = usable();
    const current = all.find((one) => one === document.activeElement) ?? all.find((one) => one.tabIndex === 0) ?? all[0];
    settle(current);
  };
  group.addEventListener("focusin", (event) => {
    const one = event.target.closest(selector);
    if (one && !one.closest(".sheet")) settle(one);
  });
  group.addEventListener("keydown", (event) => {
    const all = usable();
    const at = all.indexOf(event.target);
    if (at < 0) return;
    const next = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    all[(next + all.length) % all.length].focus();
  });
  refresh();
  return refresh;
}
