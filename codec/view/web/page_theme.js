// Dark or light: as the system has it, until the button says otherwise.

const THEMES = { "": "as the system", dark: "dark", light: "light" };
const KEPT = "aez-theme";

function kept() {
    try {
        return localStorage.getItem(KEPT) || "";
    } catch { // a page without an origin has no storage
        return "";
    }
}

function set(button, theme) {
    document.documentElement.dataset.theme = theme;
    button.title = `Colours: ${THEMES[theme]}`;
    button.setAttribute("aria-label", button.title);
    try {
        localStorage.setItem(KEPT, theme);
    } catch { /* then it is for this page only */ }
}

/** Let a button switch between the three.  @param {HTMLElement} button */
export function startTheme(button) {
    const names = Object.keys(THEMES);
    set(button, names.includes(kept()) ? kept() : "");
    button.onclick = () => {
        const at = names.indexOf(document.documentElement.dataset.theme);
        set(button, names[(at + 1) % names.length]);
    };
}
