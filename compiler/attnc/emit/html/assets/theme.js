// Light, dark or as the system has it. The choice is kept where the browser allows it.
const dark = matchMedia("(prefers-color-scheme: dark)");
const themeListeners = [];
const whenThemeChanges = (listener) => themeListeners.push(listener);

{
  const button = document.getElementById("theme");
  const names = { auto: "as the system has them", light: "light", dark: "dark" };
  const kept = () => {
    try { return localStorage.getItem("attnlang-theme") || "auto"; } catch { return "auto"; }
  };
  const use = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = theme[0].toUpperCase() + theme.slice(1);
    button.setAttribute("aria-label", `Colours: ${names[theme]}`);
    try { localStorage.setItem("attnlang-theme", theme); } catch { /* a page without storage forgets */ }
    for (const listener of themeListeners) listener();
  };
  button.addEventListener("click", () => {
    const order = ["auto", "light", "dark"];
    use(order[(order.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3]);
  });
  dark.addEventListener("change", () => { for (const listener of themeListeners) listener(); });
  use(kept() in names ? kept() : "auto");
}
