"""The original design: a FastAPI endpoint over a pickled scikit-learn pipeline.

`python original.py COMMENTS.csv MODEL` fits it; `MODEL=… LOG=… uvicorn original:app` serves it.
"""

import logging
import os
import sys

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline

LABELS = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]

app = FastAPI()
logging.basicConfig(filename=os.environ.get("LOG"), level=logging.INFO)
model = joblib.load(os.environ["MODEL"]) if "MODEL" in os.environ else None


class Comment(BaseModel):
    text: str


@app.post("/predict")
def predict(comment: Comment) -> dict[str, int]:
    labels = model.predict([comment.text])[0]
    logging.info("predict %s %s", comment.text, labels)
    return dict(zip(LABELS, labels.tolist(), strict=True))


@app.post("/predict_proba")
def predict_proba(comment: Comment) -> dict[str, float]:
    probabilities = [each[0, 1] for each in model.predict_proba([comment.text])]
    logging.info("predict_proba %s %s", comment.text, probabilities)
    return dict(zip(LABELS, map(float, probabilities), strict=True))


@app.post("/loading/predict_proba")
def loading_predict_proba(comment: Comment) -> dict[str, float]:
    loaded = joblib.load(os.environ["MODEL"])
    probabilities = [each[0, 1] for each in loaded.predict_proba([comment.text])]
    logging.info("predict_proba %s %s", comment.text, probabilities)
    return dict(zip(LABELS, map(float, probabilities), strict=True))


if __name__ == "__main__":
    rows = pd.read_csv(sys.argv[1])
    pipeline = make_pipeline(
        TfidfVectorizer(max_features=10_000), MultiOutputClassifier(LogisticRegression(max_iter=1000))
    )
    pipeline.fit(rows["comment_text"], rows[LABELS])
    joblib.dump(pipeline, sys.argv[2])
