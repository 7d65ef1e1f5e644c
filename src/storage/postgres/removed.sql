CREATE TABLE stepwell.removed (
  workflow text COLLATE "C" PRIMARY KEY,
  runs     bigint NOT NULL
);
