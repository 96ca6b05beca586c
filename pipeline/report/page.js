"use strict";

// contact sheets: switch between the two views of the outputs
for (const sheet of document.querySelectorAll(".sheet")) {
  const pictures = [...sheet.querySelectorAll("img[data-second]")];
  for (const picture of pictures) picture.dataset.first = picture.src;
  for (const radio of sheet.querySelectorAll(".views input")) {
    radio.addEventListener("change", () => {
      for (const picture of pictures) picture.src = picture.dataset[radio.value];
      sheet.querySelector(".legend").hidden = radio.value === "first";
    });
  }
  compare(sheet);
}

// two pictures of one image, with a line between them to move
function compare(sheet) {
  const figure = sheet.querySelector(".compare");
  const rows = [...sheet.querySelectorAll(".row")];
  const stage = figure.querySelector(".stage");
  const slider = stage.querySelector("input");
  const chosen = { left: figure.querySelector("select.left"), right: figure.querySelector("select.right"), image: figure.querySelector("select.image") };
  const tiles = (row) => [...row.querySelectorAll(".tile")];
  const nameOf = (tile) => tile.querySelector("figcaption span").textContent;
  const option = (text, value) => new Option(text, value);

  rows.forEach((row, number) => chosen.image.add(option(row.querySelector(".rule").textContent + " · " + row.querySelector(".id").textContent, number)));
  tiles(rows[0]).forEach((tile, number) => {
    chosen.left.add(option(nameOf(tile), number));
    chosen.right.add(option(nameOf(tile), number));
  });

  function show() {
    const row = rows[chosen.image.value];
    for (const side of ["left", "right"]) {
      const picture = tiles(row)[chosen[side].value].querySelector("img");
      const target = stage.querySelector("img." + side);
      target.src = picture.dataset.first || picture.src;
      target.alt = picture.alt;
    }
    figure.querySelector(".about").textContent = row.querySelector(".n").textContent;
    const scored = ["left", "right"].map((side) => tiles(row)[chosen[side].value]).filter((tile) => tile.querySelector(".score"));
    const scores = scored.map((tile) => nameOf(tile) + " " + tile.querySelector(".score").textContent);
    figure.querySelector(".scores-of").textContent = scores.length ? sheet.dataset.metric + ": " + scores.join(", ") : "";
  }

  for (const select of Object.values(chosen)) select.addEventListener("change", show);
  slider.addEventListener("input", () => stage.style.setProperty("--cut", slider.value + "%"));
  rows.forEach((row, image) =>
    tiles(row).forEach((tile, number) =>
      tile.querySelector("button").addEventListener("click", () => {
        chosen.image.value = image;
        chosen.right.value = number;
        show();
        figure.scrollIntoView({ behavior: "smooth", block: "center" });
      }),
    ),
  );
  chosen.left.value = 0;
  chosen.right.value = tiles(rows[0]).findIndex((tile) => tile.classList.contains("method"));
  show();
  figure.hidden = false;
}

// tables: a button in each column's head sorts its rows, and once more the other way round
for (const table of document.querySelectorAll("table.scores, table.counts")) {
  const heads = table.tHead ? [...table.tHead.rows[0].cells] : [];
  const body = table.tBodies[0];
  if (!body || body.rows.length < 2 || heads.some((head) => head.colSpan > 1)) continue;
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.textContent = "⇅";
    button.title = "sort by " + head.textContent.trim();
    button.setAttribute("aria-label", button.title);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) {
        other.removeAttribute("aria-sort");
        const sign = other.querySelector(".sort");
        if (sign) sign.textContent = "⇅";
      }
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      button.textContent = down ? "▾" : "▴";
      const keyed = [...body.rows].map((row) => [valueOf(row.cells[column]), row]);
      keyed.sort(([a], [b]) => compareValues(a, b, down ? -1 : 1));
      body.append(...keyed.map(([, row]) => row));
    });
  });
}

// what a cell is sorted by: its first number, with its unit of thousands, else its words; null where it is empty or a dash
function valueOf(cell) {
  if (!cell) return null;
  const own = cell.cloneNode(true);
  own.querySelectorAll("small").forEach((small) => small.remove());
  const text = own.textContent.trim().replaceAll("−", "-");
  if (!text || text === "–") return null;
  const number = text.match(/^[+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?\s?([kMG])?/);
  if (!number || !cell.classList.contains("num")) return text.toLowerCase();
  const unit = { k: 1e3, M: 1e6, G: 1e9 }[number[1]] || 1;
  return parseFloat(number[0].replaceAll(",", "")) * unit;
}

// cells without a value come last, whichever way round
function compareValues(a, b, way) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return way * (a - b);
  return way * String(a).localeCompare(String(b));
}

// a table of costs shows the rows that hold every word of its filter
for (const table of document.querySelectorAll("table.cost")) {
  const filter = table.closest("section").querySelector(".filter");
  const rows = [...table.tBodies[0].rows];
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    const left = rows.filter((row) => !row.hidden).length;
    filter.closest(".controls").querySelector(".shown").textContent = words.length ? left + " of " + rows.length + " rows" : "";
  });
}

// where a table is wider than its place, a line above it says so until its last column has been seen
for (const scroll of document.querySelectorAll(".scroll")) {
  const hint = document.createElement("p");
  hint.className = "more";
  hint.textContent = "more columns to the right →";
  hint.hidden = true;
  scroll.before(hint);
  const look = () => {
    const cut = scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft > 2;
    scroll.classList.toggle("clipped", cut);
    hint.hidden = !cut;
  };
  scroll.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(scroll);
}

// the way back to the top shows once there is a way
const totop = document.querySelector(".totop");
const near = () => (totop.hidden = scrollY < innerHeight / 2);
addEventListener("scroll", near, { passive: true });
near();

// on paper everything is unfolded
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => (details.open = true)));
