-- Sample data: 20 products with three batches each. Can be run again: rows that exist are left alone.
-- Dates count from the day of the first run, so that there is always something to discount.

INSERT INTO products (sku, name, base_price)
VALUES ('DAIRY-01', 'Whole milk 1 l', 1.29),
       ('DAIRY-02', 'Plain yoghurt 500 g', 1.89),
       ('DAIRY-03', 'Butter 250 g', 2.79),
       ('DAIRY-04', 'Gouda 400 g', 4.49),
       ('DAIRY-05', 'Cream 200 ml', 0.99),
       ('BAKERY-01', 'Rye bread 750 g', 3.20),
       ('BAKERY-02', 'Baguette 250 g', 1.50),
       ('BAKERY-03', 'Croissants 4 pieces', 2.60),
       ('BAKERY-04', 'Bagels 6 pieces', 2.95),
       ('MEAT-01', 'Chicken breast 600 g', 7.99),
       ('MEAT-02', 'Minced beef 500 g', 6.49),
       ('MEAT-03', 'Cooked ham 150 g', 2.39),
       ('FISH-01', 'Salmon fillet 300 g', 8.99),
       ('FISH-02', 'Smoked trout 125 g', 3.79),
       ('FRUIT-01', 'Strawberries 500 g', 3.99),
       ('FRUIT-02', 'Bananas 1 kg', 1.99),
       ('FRUIT-03', 'Fresh orange juice 1 l', 3.49),
       ('SALAD-01', 'Lamb''s lettuce 150 g', 1.79),
       ('SALAD-02', 'Potato salad 400 g', 2.49),
       ('READY-01', 'Vegetable lasagne 400 g', 3.99)
ON CONFLICT (sku) DO NOTHING;

-- Expiry dates from four days ago to forty days ahead; every tenth batch is sold out.
INSERT INTO batches (product_id, lot, quantity, expires_on)
SELECT p.id,
       format('%s-L%s', p.sku, lot.number),
       CASE WHEN (p.position + 7 * lot.number) % 10 = 0 THEN 0 ELSE 10 + 3 * lot.number END,
       current_date - 4 + ((7 * p.position + 16 * lot.number) % 45)::integer
  FROM (SELECT id, sku, row_number() OVER (ORDER BY sku) AS position FROM products) AS p
 CROSS JOIN generate_series(1, 3) AS lot (number)
ON CONFLICT (product_id, lot) DO NOTHING;

-- What an earlier day has left behind for the cleanup to find.
INSERT INTO discounts (batch_id, percent, price, valid_until)
SELECT b.id, 70, round(p.base_price * 0.3, 2), b.expires_on
  FROM batches AS b
  JOIN products AS p ON p.id = b.product_id
 WHERE b.expires_on < current_date AND b.quantity > 0
   AND NOT EXISTS (SELECT FROM discounts AS d WHERE d.batch_id = b.id);
