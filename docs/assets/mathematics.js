// Equations, rendered by the copy of KaTeX beside this file: the site asks no other host for anything.
const render = () =>
  document.querySelectorAll(".arithmatex").forEach((element) =>
    renderMathInElement(element, {
      delimiters: [
        { left: "\\(", right: "\\)", display: false },
        { left: "\\[", right: "\\]", display: true },
      ],
      throwOnError: false,
    }),
  );
document$.subscribe(render);
