// The gallery: a card a category with the images nearest to its anchor; cards are made as they are asked for.
'use strict';
report.galleries = (() => {
  const step = innerWidth < 620 ? 8 : 24; // cards at first, and a quarter of those that each press of the button adds

  const orders = {
    most: (a, b) => b.hits - a.hits || a.name.localeCompare(b.name),
    least: (a, b) => a.hits - b.hits || a.name.localeCompare(b.name),
    name: (a, b) => a.name.localeCompare(b.name),
  };

  function start() {
    document.querySelectorAll('[data-gallery]').forEach((element) => {
      const index = element.dataset.gallery;
      const gallery = report.data.galleries[Number(index)];
      const part = (name) => document.querySelector(`[data-gallery-${name}="${index}"]`);
      let limit = step;
      const draw = () => {
        const query = part('find').value.trim().toLowerCase();
        const chosen = gallery.categories
          .filter(({ name }) => name.toLowerCase().includes(query))
          .sort(orders[part('order').value]);
        element.replaceChildren(...chosen.slice(0, limit).map((category) => card(category, gallery)));
        part('count').textContent = `${Math.min(limit, chosen.length)} of ${chosen.length}`;
        part('more').hidden = chosen.length <= limit;
      };
      const restart = () => {
        limit = step;
        draw();
      };
      part('find').addEventListener('input', restart);
      part('order').addEventListener('change', restart);
      part('more').addEventListener('click', () => {
        limit += 4 * step;
        draw();
      });
      draw();
    });
  }

  function card({ name, hits, nearest }, { thumbnails, ids }) {
    const title = make('h4', name);
    title.append(make('span', `${hits} ${hits === 1 ? 'hit' : 'hits'}`));
    const images = nearest.map(({ image, cosine }) => {
      const picture = make('img');
      picture.src = thumbnails[image];
      picture.alt = `${ids[image]}, cosine ${cosine}`;
      picture.title = picture.alt;
      picture.width = picture.height = 48;
      return picture;
    });
    const row = make('div');
    row.append(...images);
    const result = make('article');
    result.append(title, row);
    return result;
  }

  function make(tag, text = '') {
    const element = document.createElement(tag);
    element.textContent = text;
    return element;
  }

  return { start };
})();
