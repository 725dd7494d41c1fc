// What tests/test_pages.py asks of a page that is open in the browser.

window.book = {
  // Until mathematics is set and pictures are fetched, those included that wait to come into view.
  async ready() {
    await window.MathJax?.startup?.promise;
    const images = [...document.images].filter(i => getComputedStyle(i).display !== "none");
    for (const image of images) image.loading = "eager";
    await Promise.all(images.map(image => image.decode().catch(() => {})));
    await document.fonts.ready;
  },

  facts() {
    const all = selector => [...document.querySelectorAll(selector)];
    const shown = element => getComputedStyle(element).display !== "none";
    const main = document.querySelector("main");
    const walker = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
    let text = "";
    while (walker.nextNode()) {
      // dl.py: the library's docstrings are not Markdown, and may speak of it.
      const code = "pre, code, mjx-container, script, style, dl.py";
      if (!walker.currentNode.parentElement.closest(code)) text += walker.currentNode.data;
    }
    return {
      title: document.title,
      language: document.documentElement.lang,
      // The theme has a second one, which only paper shows.
      headings: all("main h1").filter(h => h.checkVisibility()).length,
      text,
      unset: all("main .math").filter(m => !m.querySelector("mjx-container")).map(m => m.innerText),
      errors: all("mjx-merror, [data-mjx-error]").map(e => e.dataset.mjxError || e.innerText),
      silent: all("img").filter(i => !i.alt.trim()).map(i => i.src),
      broken: all("img").filter(i => shown(i) && !i.naturalWidth).map(i => i.src),
      light: all("main img.only-light").map(shown),
      dark: all("main img.only-dark").map(shown),
    };
  },

  // Empty, or by how much the page is too wide, and what may be the reason.
  wide() {
    const page = document.documentElement;
    if (page.scrollWidth <= page.clientWidth) return [];
    const beyond = e => e.getBoundingClientRect().right > page.clientWidth + 1;
    const suspects = [...document.querySelectorAll("main *")].filter(beyond).slice(0, 5);
    return [`${page.scrollWidth} pixels`, ...suspects.map(e => e.outerHTML.slice(0, 120))];
  },

  // Texts whose contrast with what lies behind them is below 4.5 : 1, or 3 : 1 for large letters.
  pale() {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const brush = canvas.getContext("2d", { willReadFrequently: true });
    const luminance = colors => {
      brush.clearRect(0, 0, 1, 1);
      for (const color of colors) {
        brush.fillStyle = color;
        brush.fillRect(0, 0, 1, 1);
      }
      return [...brush.getImageData(0, 0, 1, 1).data]
        .slice(0, 3)
        .map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    };
    const backgrounds = element =>
      element ? [...backgrounds(element.parentElement), getComputedStyle(element).backgroundColor] : [];

    const verdicts = new Map();
    const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.data.trim();
      const element = walker.currentNode.parentElement;
      const ignored = element.closest("script, style, .headerlink, mjx-assistive-mml");
      if (!text || ignored || !element.checkVisibility({ visibilityProperty: true })) continue;
      const style = getComputedStyle(element);
      const behind = backgrounds(element);
      const key = [style.color, style.fontSize, style.fontWeight, ...behind].join();
      if (verdicts.has(key)) continue;
      const [a, b] = [luminance([...behind, style.color]), luminance(behind)];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
      const pale = ratio < (large ? 3 : 4.5);
      verdicts.set(key, pale && `${ratio.toFixed(2)} : 1, ${text.slice(0, 40)}`);
    }
    return [...verdicts.values()].filter(Boolean);
  },
};
