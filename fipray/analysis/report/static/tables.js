"use strict";
// Tables: sorted by a click on a header, filtered by words, downloaded as CSV and LaTeX as they stand.

const FIRST_ROWS = 15;
const LABEL = 34; // characters that are not broken into lines
const collator = new Intl.Collator("en", { numeric: true });

class Column {
  constructor(data) {
    Object.assign(this, data);
    this.isText = this.kind === "text";
    // JSON has no infinity: it stands there as a text.
    if (this.values) this.values = this.values.map((value) => (value === null ? null : Number(value)));
    const longest = this.isText ? Math.max(0, ...this.levels.map((level) => String(level).length)) : 0;
    this.look = !this.isText ? "num" : longest > LABEL ? "prose" : "label";
  }

  raw(row) {
    if (!this.codes) return this.values[row];
    return this.codes[row] < 0 ? null : this.levels[this.codes[row]];
  }

  text(row) {
    const value = this.raw(row);
    if (value === null) return "";
    if (this.shown) return this.shown[this.codes[row]];
    if (value === true || value === false) return value ? "yes" : "no";
    if (this.kind === "percent") return percent(value);
    if (this.kind === "count") return value.toLocaleString("en");
    return this.isText ? String(value) : significant(value);
  }

  interval(row) {
    return this.low && this.low[row] !== null ? `[${percent(this.low[row])}, ${percent(this.high[row])}]` : "";
  }

  compare(a, b) {
    const [x, y] = [this.raw(a), this.raw(b)];
    return this.isText ? collator.compare(String(x), String(y)) : x - y;
  }
}

class Sheet {
  constructor(place, data) {
    this.place = place;
    this.name = data.name;
    this.title = data.title;
    this.total = data.num_rows;
    this.columns = data.columns.map((column) => new Column(column));
    const first = data.columns[0];
    this.rows = d3.range((first.codes ?? first.values).length);
    this.haystack = null;
    this.shown = this.rows;
    this.sorted = { column: null, down: false };
    this.words = [];
    this.most = FIRST_ROWS;
    this.build();
    this.draw();
  }

  build() {
    this.count = element("span", { class: "rows", role: "status" });
    const bar = element("div", { class: "bar" });
    if (this.rows.length > 5) {
      const input = element("input", { type: "search", placeholder: "words in a row" });
      input.addEventListener("input", () => { this.words = input.value.toLowerCase().split(/\s+/).filter(Boolean); this.arrange(); });
      bar.append(element("label", {}, "Filter", input));
    }
    bar.append(this.download("CSV", "csv", "text/csv"), this.download("LaTeX", "tex", "application/x-tex"), this.count);
    const head = element("tr", {}, ...this.columns.map((column) => this.header(column)));
    this.body = element("tbody");
    const table = element("table", {}, element("thead", {}, head), this.body);
    const scroll = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": this.title }, table);
    this.more = element("button", { type: "button", class: "more" });
    this.more.addEventListener("click", () => {
      this.most = Infinity;
      scroll.classList.toggle("long", this.shown.length > 2 * FIRST_ROWS);
      this.draw();
    });
    this.place.append(bar, scroll, this.more);
  }

  header(column) {
    const mark = element("span", { class: "mark", "aria-hidden": "true" });
    const label = column.isText ? [column.label, mark] : [mark, column.label];
    const button = element("button", { type: "button", title: column.hint || null }, ...label);
    const cell = element("th", { scope: "col", class: column.look, "aria-sort": "none" }, button);
    button.addEventListener("click", () => {
      const same = this.sorted.column === column;
      // Numbers begin with the largest, texts with A.
      this.sorted = { column, down: same ? !this.sorted.down : !column.isText };
      for (const other of cell.parentElement.children) {
        other.setAttribute("aria-sort", "none");
        other.querySelector(".mark").textContent = "";
      }
      cell.setAttribute("aria-sort", this.sorted.down ? "descending" : "ascending");
      mark.textContent = this.sorted.down ? "▾" : "▴";
      this.arrange();
    });
    return cell;
  }

  arrange() {
    let rows = this.rows;
    if (this.words.length) {
      this.haystack ??= this.rows.map((row) => this.columns.map((column) => column.text(row)).join(" ").toLowerCase());
      rows = rows.filter((row) => this.words.every((word) => this.haystack[row].includes(word)));
    }
    const { column, down } = this.sorted;
    if (column) {
      const known = rows.filter((row) => column.raw(row) !== null);
      known.sort((a, b) => (down ? column.compare(b, a) : column.compare(a, b)));
      rows = [...known, ...rows.filter((row) => column.raw(row) === null)];
    }
    this.shown = rows;
    this.draw();
  }

  draw() {
    const rows = this.shown.slice(0, this.most);
    this.body.replaceChildren(...rows.map((row) => element("tr", {}, ...this.columns.map((column) => this.cell(column, row)))));
    const cut = this.rows.length < this.total ? `, the first of ${this.total.toLocaleString("en")}` : "";
    const some = this.shown.length < this.rows.length ? `${this.shown.length.toLocaleString("en")} of ` : "";
    const drawn = rows.length < this.shown.length ? `${rows.length.toLocaleString("en")} shown, of ` : "";
    this.count.textContent = `${drawn}${some}${this.rows.length.toLocaleString("en")} ${this.rows.length === 1 ? "row" : "rows"}${cut}`;
    this.more.hidden = rows.length === this.shown.length;
    this.more.textContent = `Show all ${this.shown.length.toLocaleString("en")} rows`;
  }

  cell(column, row) {
    const cell = element("td", { class: column.look }, column.text(row));
    const interval = column.interval(row);
    if (interval) cell.append(" ", element("span", { class: "ci" }, interval));
    return cell;
  }

  download(label, suffix, type) {
    const button = element("button", { type: "button", "aria-label": `Download ${this.title} as ${label}` }, label);
    button.addEventListener("click", () => {
      const text = suffix === "csv" ? this.csv() : this.latex();
      const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
      const link = element("a", { href: address, download: `${this.name}.${suffix}` });
      document.body.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
    });
    return button;
  }

  csv() {
    const quoted = (value, isText) => {
      if (value === null || value === undefined) return "";
      // Spreadsheets would run a text that begins like a formula.
      const text = isText && /^[=+\-@\t\r]/.test(String(value)) ? `'${value}` : String(value);
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const fields = this.columns.flatMap((column) => [
      { name: column.name, value: (row) => column.raw(row), isText: column.isText },
      ...(column.low ? [{ name: `${column.name}_low`, value: (row) => column.low[row] }, { name: `${column.name}_high`, value: (row) => column.high[row] }] : []),
    ]);
    const lines = this.shown.map((row) => fields.map((field) => quoted(field.value(row), field.isText)).join(","));
    return [fields.map((field) => quoted(field.name, true)).join(","), ...lines, ""].join("\r\n");
  }

  latex() {
    const named = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
      "ε": "$\\varepsilon$", "ℓ": "$\\ell$", "∞": "$\\infty$", "−": "$-$" };
    const escaped = (text) => text.replace(/[\\~^<>|εℓ∞−]|[&%$#_{}]/g, (found) => named[found] ?? `\\${found}`);
    const value = (column, row) => {
      const interval = column.interval(row);
      return escaped(column.text(row)) + (interval ? ` {\\footnotesize ${interval}}` : "");
    };
    const rows = this.shown.map((row) => `  ${this.columns.map((column) => value(column, row)).join(" & ")} \\\\`);
    return [
      "% needs \\usepackage{booktabs}",
      `\\begin{tabular}{@{}${this.columns.map((column) => (column.isText ? "l" : "r")).join("")}@{}}`,
      "  \\toprule",
      `  ${this.columns.map((column) => escaped(column.label)).join(" & ")} \\\\`,
      "  \\midrule",
      ...rows,
      "  \\bottomrule",
      "\\end{tabular}",
      "",
    ].join("\n");
  }
}
