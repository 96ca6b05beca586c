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

// on paper everything is unfolded
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
